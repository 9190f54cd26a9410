{{- define "kubeballoon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The first part of all names: the release's name, followed by the chart's name unless it contains that. */}}
{{- define "kubeballoon.fullname" -}}
{{- $name := include "kubeballoon.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kubeballoon.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "kubeballoon.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kubeballoon
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels of a component's objects; call it with (list . "agent"). */}}
{{- define "kubeballoon.partLabels" -}}
{{- $root := index . 0 -}}
{{ include "kubeballoon.labels" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "kubeballoon.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "kubeballoon.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The full name of an image; call it with (list . .Values.agent.image). */}}
{{- define "kubeballoon.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $where := printf "%s/%s" $root.Values.image.registry $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $where $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $where (default $root.Chart.AppVersion $root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The name of a component's ServiceAccount; call it with (list . "agent"). */}}
{{- define "kubeballoon.account" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- $name := printf "%s-%s" (include "kubeballoon.fullname" $root) (index . 1) -}}
{{- default $name (dig "serviceAccount" "name" "" $values) -}}
{{- end -}}

{{/* A component's ServiceAccount, unless it exists already; call it with (list . "agent"). */}}
{{- define "kubeballoon.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $values := (index $root.Values (index . 1)).serviceAccount -}}
{{- if $values.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "kubeballoon.account" . }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- merge (fromYaml (include "kubeballoon.partLabels" .)) $values.labels | toYaml | nindent 4 }}
  {{- with $values.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
{{- else if not $values.name }}
{{- fail (printf "%s.serviceAccount.create is false: name the account in %s.serviceAccount.name" (index . 1) (index . 1)) }}
{{- end }}
{{- end -}}

{{/* The user name of a component's ServiceAccount; call it with (list . "agent"). */}}
{{- define "kubeballoon.user" -}}
{{- printf "system:serviceaccount:%s:%s" (index . 0).Release.Namespace (include "kubeballoon.account" .) -}}
{{- end -}}

{{/* The security context of a container without any privilege. */}}
{{- define "kubeballoon.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The security context of a pod whose containers have no privilege. */}}
{{- define "kubeballoon.unprivilegedPod" -}}
runAsNonRoot: true
{{- if not .Values.openshift.enabled }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/*
The port and the probes of controller and agent; Prometheus reads their metrics at the same port. Call it with the
component's values, whose fields of probes go before these.
*/}}
{{- define "kubeballoon.probes" -}}
{{- $alive := dict "path" "/healthz" "port" "http" -}}
{{- $ready := dict "path" "/readyz" "port" "http" -}}
{{- $startup := dict "httpGet" $alive "periodSeconds" 2 "failureThreshold" 60 -}}
{{- $liveness := dict "httpGet" $alive "periodSeconds" 20 "timeoutSeconds" 5 -}}
{{- $readiness := dict "httpGet" $ready "periodSeconds" 10 "timeoutSeconds" 5 -}}
ports:
  - {name: http, containerPort: 8080}
startupProbe: {{- mergeOverwrite $startup .probes.startup | toYaml | nindent 2 }}
livenessProbe: {{- mergeOverwrite $liveness .probes.liveness | toYaml | nindent 2 }}
readinessProbe: {{- mergeOverwrite $readiness .probes.readiness | toYaml | nindent 2 }}
{{- end -}}

{{/* The seconds of a duration such as 1m30s, rounded up. */}}
{{- define "kubeballoon.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" . -1 -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- end -}}

{{/*
A variable of admission policies: which metadata a write changes. What others wrote, such as an administrator's annotation on
an agent's Lease, is no reason to refuse a heartbeat.
*/}}
{{- define "kubeballoon.changedMetadata" -}}
- name: changed
  expression: >-
    object == null ? [] : ['annotations', 'finalizers', 'labels', 'ownerReferences'].filter(k, k in object.metadata
    && !(oldObject != null && k in oldObject.metadata && oldObject.metadata[k] == object.metadata[k]))
{{- end -}}

{{/* Another, of Leases: whether they say only what elections need. */}}
{{- define "kubeballoon.saysNoMore" -}}
- name: saysNoMore
  expression: >-
    object == null || object.?spec.orValue({}).all(k,
    k in ['holderIdentity', 'leaseDurationSeconds', 'acquireTime', 'renewTime', 'leaseTransitions'])
{{- end -}}

{{/* Whether agents have Leases: not empty where they do. Without admission an agent could write the controllers' Lease. */}}
{{- define "kubeballoon.heartbeats" -}}
{{- if and .Values.heartbeats.enabled .Values.admission.enabled -}}true{{- end -}}
{{- end -}}
