{{/* What pods of routers, workers, jobs and tests have in common. */}}
{{- define "facet.podSpec" -}}
serviceAccountName: {{ include "facet.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .Values.runAsUser }}
  runAsGroup: {{ int .Values.runAsUser }}
  fsGroup: {{ int .Values.runAsUser }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "facet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Argument: values of the router or of a merged pool. */}}
{{- define "facet.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How to ask a server whether it serves: gRPC health. The kubelet speaks no TLS, so there the program asks itself. */}}
{{- define "facet.healthProbe" -}}
{{- if .tls -}}
exec: {command: {{ toJson .health }}}
{{- else -}}
grpc: {port: {{ int .grpc }}}
{{- end }}
periodSeconds: {{ ternary 10 2 .tls }}
timeoutSeconds: 5
{{- end -}}

{{/* The metrics port answers from the first moment, whatever the load is and whatever TLS there is. */}}
{{- define "facet.liveProbe" -}}
httpGet: {path: /livez, port: metrics}
periodSeconds: 2
timeoutSeconds: 5
{{- end -}}

{{/* The probes of a router or worker. Arguments: tls, grpc (port), health (command), and
     startup: "health", where a process that never serves shall be started again, or "live";
     startupSeconds: how long that may take; ready: "health" or "live";
     patience: seconds of bad health before the pod counts as not ready. */}}
{{- define "facet.probes" -}}
{{- $period := ternary 10 2 .tls -}}
startupProbe:
  {{- include (printf "facet.%sProbe" .startup) . | nindent 2 }}
  failureThreshold: {{ max 1 (div (int .startupSeconds) (ternary $period 2 (eq .startup "health"))) }}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- include (printf "facet.%sProbe" .ready) . | nindent 2 }}
  failureThreshold: {{ max 1 (div (int .patience) $period) }}
{{- end -}}

{{- define "facet.modelsMount" -}}
{{- if ne .Values.modelStorage.source "image" -}}
- {name: models, mountPath: {{ .Values.modelStorage.mountPath }}, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "facet.modelsClaim" -}}
{{- default (printf "%s-models" (include "facet.fullname" .)) .Values.modelStorage.existingClaim -}}
{{- end -}}

{{- define "facet.modelsVolume" -}}
{{- if ne .Values.modelStorage.source "image" -}}
- name: models
  persistentVolumeClaim: {claimName: {{ include "facet.modelsClaim" . }}}
{{- end -}}
{{- end -}}

{{/* The ledger's claim, which routers and workers write. */}}
{{- define "facet.ledgerMount" -}}
{{- if .Values.ledger.enabled -}}
- {name: ledger, mountPath: /var/lib/facet/ledger}
{{- end -}}
{{- end -}}

{{- define "facet.ledgerClaim" -}}
{{- default (printf "%s-ledger" (include "facet.fullname" .)) .Values.ledger.existingClaim -}}
{{- end -}}

{{- define "facet.ledgerVolume" -}}
{{- if .Values.ledger.enabled -}}
- name: ledger
  persistentVolumeClaim: {claimName: {{ include "facet.ledgerClaim" . }}}
{{- end -}}
{{- end -}}

{{/* A secret's keys under the names that the config uses. Argument: (dict "name" volume "secret" name "items" (dict key path)). */}}
{{- define "facet.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
    {{- range $key, $path := .items }}
      - {key: {{ $key | quote }}, path: {{ $path }}}
    {{- end }}
{{- end -}}

{{- define "facet.workerTlsVolume" -}}
{{- with .Values.workerTls -}}
{{- if .existingSecret -}}
{{ include "facet.secretVolume" (dict "name" "worker-tls" "secret" .existingSecret "items" (dict .caKey "ca.pem" .certKey "cert.pem" .keyKey "key.pem")) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Waits until the job has downloaded everything. Argument: (dict "root" $ "models" [model]). */}}
{{- define "facet.awaitModels" -}}
{{- if eq .root.Values.modelStorage.source "hub" -}}
initContainers:
  - name: await-models
    image: {{ include "facet.image" (dict "root" .root "image" .root.Values.images.downloader) }}
    imagePullPolicy: {{ .root.Values.images.downloader.pullPolicy }}
    args:
      - await
    {{- range .models }}
      - {{ printf "%s@%s=%s" .hub.repository .hub.revision (include "facet.modelDirectory" (dict "root" $.root "model" .)) | quote }}
    {{- end }}
    resources: {{ toYaml .root.Values.modelStorage.download.resources | nindent 6 }}
    securityContext: {{ include "facet.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      {{- include "facet.modelsMount" .root | nindent 6 }}
{{- end -}}
{{- end -}}
