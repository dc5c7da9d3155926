{{/* Names and labels. Pool names are appended to the full name, so that is kept to 40 characters. */}}
{{- define "facet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "facet.serviceAccountName" -}}
{{- default (include "facet.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* What selectors match: never the version. Argument: (dict "root" $ "component" "worker" "pool" "e4b"); pool may be absent. */}}
{{- define "facet.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
facet-pool: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Every object begins with labels, so nothing is rendered before the checks. */}}
{{- define "facet.labels" -}}
{{- include "facet.checks" .root }}
{{ include "facet.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: facet
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of pods: nothing that changes with the chart alone, because a pod's labels start it anew. */}}
{{- define "facet.podLabels" -}}
{{ include "facet.selectorLabels" . }}
app.kubernetes.io/part-of: facet
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Argument: (dict "root" $ "image" .Values.images.router). */}}
{{- define "facet.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* Host name of worker .index of pool .pool (as merged): its pod's, which the headless service answers for. */}}
{{- define "facet.workerHost" -}}
{{- $set := printf "%s-%s" (include "facet.fullname" .root) .pool.name -}}
{{ $set }}-{{ .index }}.{{ $set }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}
