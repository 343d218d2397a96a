{{- define "rung.labels" -}}
app.kubernetes.io/name: rung
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "rung.selector" -}}
app.kubernetes.io/name: rung
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rung.fullname" -}}
{{- if contains "rung" .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-rung" .Release.Name }}{{ end }}
{{- end }}

{{- define "rung.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "rung.triton.image" -}}
{{ printf "%s:%s" .Values.triton.image.repository (.Values.triton.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "rung.namespaces" -}}
{{ join "," (.Values.operator.watchNamespaces | default (list .Release.Namespace)) }}
{{- end }}

{{- define "rung.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
