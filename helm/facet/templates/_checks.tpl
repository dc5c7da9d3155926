{{/* Contradictions that a schema cannot see. Each ends the rendering with what to do. */}}
{{- define "facet.checks" -}}
{{- $names := dict -}}
{{- range .Values.models -}}
{{- if hasKey $names .name -}}{{- fail (printf "models: %q stands twice" .name) -}}{{- end -}}
{{- $_ := set $names .name true -}}
{{- if and (eq $.Values.modelStorage.source "hub") (not .hub) -}}
{{- fail (printf "models: %q has no hub.repository and hub.revision, which modelStorage.source: hub needs" .name) -}}
{{- end -}}
{{- if and (eq $.Values.modelStorage.source "hub") (isAbs .directory) -}}
{{- fail (printf "models: %q has the absolute directory %s; with modelStorage.source: hub it must be below %s" .name .directory $.Values.modelStorage.mountPath) -}}
{{- end -}}
{{- if and (eq $.Values.modelStorage.source "image") (not (isAbs .directory)) -}}
{{- fail (printf "models: %q has the relative directory %s; with modelStorage.source: image it must be absolute" .name .directory) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.modelStorage.source "pvc") (not .Values.modelStorage.existingClaim) -}}
{{- fail "modelStorage.source is pvc, and existingClaim is empty; name the claim that holds the models" -}}
{{- end -}}
{{- if and .Values.ledger.existingClaim (not .Values.ledger.enabled) -}}
{{- fail "ledger.existingClaim is set, and ledger.enabled is false; no usage would be recorded" -}}
{{- end -}}
{{- include "facet.priceChecks" . -}}
{{- if not (or .Values.workerTls.existingSecret .Values.insecureNetwork) -}}
{{- fail "router and workers would talk in plain text: set workerTls.existingSecret, or insecureNetwork: true if the pod network is private" -}}
{{- end -}}
{{- if and .Values.routerTls.existingSecret .Values.router.http.enabled (not .Values.insecureNetwork) -}}
{{- fail "routerTls is set, and HTTP has no TLS: set router.http.enabled: false, or insecureNetwork: true if a proxy in front ends TLS" -}}
{{- end -}}
{{- with .Values.router -}}
{{- $needed := add (int .preStopSeconds) (int .drainSeconds) -}}
{{- if and .terminationGracePeriodSeconds (lt (int .terminationGracePeriodSeconds) (int $needed)) -}}
{{- fail (printf "router.terminationGracePeriodSeconds is %d, less than preStopSeconds + drainSeconds = %d: streams would be cut" (int .terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false, and serviceAccount.name is empty" -}}
{{- end -}}
{{- $pools := dict -}}
{{- range .Values.pools -}}
{{- $path := printf "pool %q" .name -}}
{{- if hasKey $pools .name -}}{{- fail (printf "%s stands twice" $path) -}}{{- end -}}
{{- $_ := set $pools .name true -}}
{{- if has .name (list "router" "models" "default" "download" "test") -}}{{- fail (printf "%s: that name is taken by other objects of the chart" $path) -}}{{- end -}}
{{- if not (hasKey $names .model) -}}
{{- fail (printf "%s: its model %q is not among models" $path .model) -}}
{{- end -}}
{{- $set := printf "%s-%s" (include "facet.fullname" $) .name -}}
{{- if gt (len $set) 52 -}}
{{- fail (printf "%s: %s has %d characters; a StatefulSet's name may have 52" $path $set (len $set)) -}}
{{- end -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy .) -}}
{{- $needed := int $pool.drainSeconds -}}
{{- if and $pool.terminationGracePeriodSeconds (lt (int $pool.terminationGracePeriodSeconds) $needed) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is %d, less than drainSeconds = %d: requests would be cut" $path (int $pool.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- if $pool.autoscaling.enabled -}}
{{- if $pool.expertGroup.ranks -}}
{{- fail (printf "%s: autoscaling and expertGroup do not go together; a group has a fixed number of ranks" $path) -}}
{{- end -}}
{{- if hasKey . "replicas" -}}
{{- fail (printf "%s: replicas and autoscaling do not go together; set autoscaling.minReplicas" $path) -}}
{{- end -}}
{{- if gt (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas) -}}
{{- fail (printf "%s: autoscaling.minReplicas is %d, more than maxReplicas = %d" $path (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with $pool.expertGroup -}}
{{- if .ranks -}}
{{- if not (has (int .ranks) (list 2 4 8)) -}}
{{- fail (printf "%s: expertGroup.ranks is %d; it must be 2, 4 or 8" $path (int .ranks)) -}}
{{- end -}}
{{- if not .existingSecret -}}
{{- fail (printf "%s: expertGroup.existingSecret is empty; make one with: kubectl -n %s create secret generic %s-group --from-literal=%s=$(openssl rand -hex 32)" $path $.Release.Namespace (include "facet.fullname" $) .secretKey) -}}
{{- end -}}
{{- else if .spares -}}
{{- fail (printf "%s: expertGroup.spares is %d, and there are no ranks" $path (int .spares)) -}}
{{- end -}}
{{- end -}}
{{- if and $pool.expertGroup.ranks (hasKey . "replicas") -}}
{{- fail (printf "%s: replicas and expertGroup do not go together; ranks and spares say how many workers there are" $path) -}}
{{- end -}}
{{- if and $.Values.prices (eq $pool.device "cuda") (not $pool.config.device_class) -}}
{{- fail (printf "%s: device is cuda, and config.device_class is empty; prices are by class" $path) -}}
{{- end -}}
{{- if and (eq $pool.device "cuda") (not (dig "limits" "nvidia.com/gpu" 0 $pool.resources)) -}}
{{- fail (printf "%s: device is cuda, and resources.limits has no nvidia.com/gpu" $path) -}}
{{- end -}}
{{- end -}}
{{- with .Values.monitoring -}}
{{- range $key, $kind := dict "serviceMonitor" "ServiceMonitor" "podMonitor" "PodMonitor" "prometheusRule" "PrometheusRule" -}}
{{- if and (index $.Values.monitoring $key).enabled (not $.Values.monitoring.assumeCrds) (not ($.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind))) -}}
{{- fail (printf "monitoring.%s is enabled, and the cluster has no monitoring.coreos.com/v1/%s; install the Prometheus operator, or set monitoring.assumeCrds: true where the API cannot be asked" $key $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A prices file that workers would refuse: at the start they end, later they keep the old prices. */}}
{{- define "facet.priceChecks" -}}
{{- $layout := "2006-01-02T15:04:05Z07:00" -}}
{{- $classes := dict -}}
{{- range .Values.prices -}}
{{- $class := .device_class -}}
{{- if hasKey $classes $class -}}{{- fail (printf "prices: device_class %q stands twice" $class) -}}{{- end -}}
{{- $_ := set $classes $class true -}}
{{- $before := "" -}}
{{- range .dates -}}
{{- if ne .from (dateInZone $layout (toDate $layout .from) "UTC") -}}
{{- fail (printf "prices: device_class %q: there is no instant %s" $class .from) -}}
{{- end -}}
{{- if le .from $before -}}
{{- fail (printf "prices: device_class %q: %s is not later than %s, which stands before it" $class .from $before) -}}
{{- end -}}
{{- $before = .from -}}
{{- end -}}
{{- end -}}
{{- end -}}
