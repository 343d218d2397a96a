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

{{- define "rung.porting.namespaces" -}}
{{ join "," (without (.Values.operator.watchNamespaces | default (list .Release.Namespace)) "*" | default (list .Release.Namespace)) }}
{{- end }}

{{- define "rung.namespaces" -}}
{{ join "," (.Values.operator.watchNamespaces | default (list .Release.Namespace)) }}
{{- end }}

{{- define "rung.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "rung.triton.container" -}}
image: {{ include "rung.triton.image" . }}
imagePullPolicy: {{ .Values.triton.image.pullPolicy }}
{{- with .Values.triton.image.command }}
command: {{- toYaml . | nindent 2 }}
{{- end }}
args:
  - --model-repository=/models
  - --model-control-mode=explicit
  - --strict-readiness=false
  # Configurations in the repository are complete; completing them costs a process and a second at each load.
  - --disable-auto-complete-config
  {{- with .Values.triton.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.triton.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: http, containerPort: 8000}
  - {name: grpc, containerPort: 8001}
  - {name: metrics, containerPort: 8002}
resources: {{- toYaml .Values.triton.resources | nindent 2 }}
securityContext: {{- include "rung.restricted" . | nindent 2 }}
volumeMounts:
  - {name: models, mountPath: /models, readOnly: true}
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
  - {name: backends, mountPath: /run/triton}
{{- end }}

{{- define "rung.agent.container" -}}
image: {{ include "rung.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [rung-agent]
env:
  - {name: RUNG_AGENT_REPOSITORY, value: {{ required "repository.uri is needed: where the versions are, s3://BUCKET/PREFIX" .Values.repository.uri | quote }}}
  {{- with .Values.repository.endpoint }}
  - {name: RUNG_AGENT_ENDPOINT, value: {{ . | quote }}}
  {{- end }}
  - {name: RUNG_AGENT_MODELS_DIR, value: /models}
  - {name: RUNG_AGENT_DISK_BUDGET, value: {{ .Values.agent.diskBudget | quote }}}
  - {name: RUNG_AGENT_POLL_INTERVAL, value: {{ .Values.agent.interval | quote }}}
  - {name: RUNG_AGENT_LISTEN, value: "0.0.0.0:8090"}
  - {name: RUNG_AGENT_TRITON, value: "localhost:8001"}
  - {name: RUNG_AGENT_TRITON_METRICS, value: "127.0.0.1:8002"}
  {{- if .Values.reflex.enabled }}
  - {name: RUNG_AGENT_GATE_FILE, value: /run/rung/tasks.json}
  {{- end }}
  - {name: AWS_REGION, value: {{ .Values.repository.region | quote }}}
  - name: RUNG_AGENT_TRITON_MEMORY_LIMIT
    valueFrom:
      resourceFieldRef: {containerName: triton, resource: limits.memory}
  {{- with .Values.agent.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.repository.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
ports:
  - {name: agent, containerPort: 8090}
resources: {{- toYaml .Values.agent.resources | nindent 2 }}
securityContext: {{- include "rung.restricted" . | nindent 2 }}
volumeMounts:
  - {name: models, mountPath: /models}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.reflex.enabled }}
  - {name: gate, mountPath: /run/rung}
  {{- end }}
{{- end }}

{{- define "rung.gate.container" -}}
image: {{ printf "%s:%s" .Values.reflex.image.repository (.Values.reflex.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.reflex.image.pullPolicy }}
ports:
  - {name: gate-http, containerPort: 8100}
  - {name: gate-grpc, containerPort: 8101}
  - {name: gate-metrics, containerPort: 8102}
resources: {{- toYaml .Values.reflex.resources | nindent 2 }}
securityContext: {{- include "rung.restricted" . | nindent 2 }}
volumeMounts:
  - {name: gate, mountPath: /run/rung, readOnly: true}
{{- end }}

{{- define "rung.triton.volumes" -}}
- name: models
  emptyDir: {sizeLimit: {{ .Values.triton.modelsSize }}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.triton.sharedMemorySize }}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
# Triton insists on setting the mode of its backends' files, so it gets a copy of its own.
- name: backends
  emptyDir: {}
{{- if .Values.reflex.enabled }}
- name: gate
  emptyDir: {sizeLimit: 16Mi}
{{- end }}
{{- end }}
