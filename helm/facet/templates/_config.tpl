{{/* The pools with what poolDefaults says where they do not, and how many workers each may have:
     {"pools": [{..., size: 4}]} as JSON. */}}
{{- define "facet.pools" -}}
{{- $pools := list -}}
{{- range .Values.pools -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy .) -}}
{{- $size := int $pool.replicas -}}
{{- if $pool.autoscaling.enabled -}}
{{- $size = int $pool.autoscaling.maxReplicas -}}
{{- else if $pool.expertGroup.ranks -}}
{{- $size = add (int $pool.expertGroup.ranks) (int $pool.expertGroup.spares) -}}
{{- end -}}
{{- $_ := set $pool "size" $size -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- dict "pools" $pools | toJson -}}
{{- end -}}

{{- define "facet.clusterName" -}}
{{- default (include "facet.fullname" .) .Values.clusterName -}}
{{- end -}}

{{/* Where a model's directory is in every pod. */}}
{{- define "facet.modelDirectory" -}}
{{- if isAbs .model.directory -}}{{ .model.directory }}{{- else -}}{{ .root.Values.modelStorage.mountPath }}/{{ .model.directory }}{{- end -}}
{{- end -}}

{{/* One pool of the config file without its workers: what makes a worker that runs out of date. */}}
{{- define "facet.poolConfig" -}}
{{- $config := deepCopy .pool.config -}}
{{- $_ := set $config "name" .pool.name -}}
{{- $_ := set $config "model" .pool.model -}}
{{- $_ := set $config "device" (ternary "cuda:0" "cpu" (eq .pool.device "cuda")) -}}
{{- $_ := set $config "drain_ms_max" (mul 1000 (int .pool.drainSeconds)) -}}
{{- with .pool.expertGroup -}}
{{- if .ranks -}}
{{- $host := include "facet.workerHost" (dict "root" $.root "pool" $.pool "index" 0) -}}
{{- $group := dict "ranks" (int .ranks) "rendezvous_address" (printf "%s:%d" $host (int $.pool.ports.rendezvous)) "key_file" "/etc/facet/group/key" -}}
{{- if .stepMsMax -}}{{- $_ := set $group "step_ms_max" (int .stepMsMax) -}}{{- end -}}
{{- $_ := set $config "expert_group" $group -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What holds for router and workers alike: name, network, models, where prices and ledger are. */}}
{{- define "facet.commonConfig" -}}
{{- $config := dict "name" (include "facet.clusterName" .) -}}
{{- if .Values.insecureNetwork -}}{{- $_ := set $config "insecure_network" true -}}{{- end -}}
{{- with .Values.workerTls -}}
{{- if .existingSecret -}}
{{- $tls := dict "ca_file" "/etc/facet/worker-tls/ca.pem" "cert_file" "/etc/facet/worker-tls/cert.pem" "key_file" "/etc/facet/worker-tls/key.pem" -}}
{{- if .serverName -}}{{- $_ := set $tls "server_name" .serverName -}}{{- end -}}
{{- $_ := set $config "worker_tls" $tls -}}
{{- end -}}
{{- end -}}
{{- if .Values.prices -}}{{- $_ := set $config "prices_file" "/etc/facet/prices/prices.yaml" -}}{{- end -}}
{{- if .Values.ledger.enabled -}}{{- $_ := set $config "ledger_directory" (printf "/var/lib/facet/ledger/%s" (include "facet.fullname" .)) -}}{{- end -}}
{{- $models := list -}}
{{- range .Values.models -}}
{{- $model := dict "name" .name "directory" (include "facet.modelDirectory" (dict "root" $ "model" .)) -}}
{{- if .chat_template -}}{{- $_ := set $model "chat_template" .chat_template -}}{{- end -}}
{{- $models = append $models $model -}}
{{- end -}}
{{- $_ := set $config "models" $models -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The one file that every process reads. */}}
{{- define "facet.config" -}}
{{- $config := include "facet.commonConfig" . | fromYaml -}}
{{- if .Values.tenants.existingSecret -}}{{- $_ := set $config "tenants_file" "/etc/facet/tenants/tenants.yaml" -}}{{- end -}}
{{- range $index, $model := .Values.models -}}
{{- with $model.slo -}}{{- $_ := set (index $config.models $index) "slo" . -}}{{- end -}}
{{- end -}}
{{- $service := .Values.router.service -}}
{{- $router := deepCopy .Values.router.config -}}
{{- $_ := set $router "grpc_address" (printf "0.0.0.0:%d" (int $service.grpcPort)) -}}
{{- $_ := set $router "http_address" (ternary (printf "0.0.0.0:%d" (int $service.httpPort)) "off" .Values.router.http.enabled) -}}
{{- $_ := set $router "metrics_address" (printf "0.0.0.0:%d" (int $service.metricsPort)) -}}
{{- $_ := set $router "drain_ms_max" (mul 1000 (int .Values.router.drainSeconds)) -}}
{{- if .Values.routerTls.existingSecret -}}
{{- $_ := set $router "tls" (dict "cert_file" "/etc/facet/router-tls/cert.pem" "key_file" "/etc/facet/router-tls/key.pem") -}}
{{- end -}}
{{- $_ := set $config "router" $router -}}
{{- $pools := list -}}
{{- range (include "facet.pools" . | fromJson).pools -}}
{{- $merged := . -}}
{{- $pool := include "facet.poolConfig" (dict "root" $ "pool" $merged) | fromYaml -}}
{{- $workers := list -}}
{{- range $index := until (int $merged.size) -}}
{{- $host := include "facet.workerHost" (dict "root" $ "pool" $merged "index" $index) -}}
{{- $workers = append $workers (dict "grpc_address" (printf "%s:%d" $host (int $merged.ports.grpc)) "metrics_address" (printf "%s:%d" $host (int $merged.ports.metrics))) -}}
{{- end -}}
{{- $_ := set $pool "workers" $workers -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- $_ := set $config "pools" $pools -}}
{{- toYaml $config -}}
{{- end -}}
