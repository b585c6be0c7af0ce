{{/* The release's name, short enough for suffixes. */}}
{{- define "fedskd-sim.fullname" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "fedskd-sim.selectorLabels" -}}
app.kubernetes.io/name: fedskd-sim
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fedskd-sim.labels" -}}
{{ include "fedskd-sim.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* repository:tag or repository@digest of an image; takes a dict of root and image. */}}
{{- define "fedskd-sim.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Eight digits that name the run: another scenario or other settings are another run. */}}
{{- define "fedskd-sim.run" -}}
{{- $settings := omit .Values "metrics" "networkPolicy" "extraObjects" "rbac" -}}
{{- printf "%s|%s|%s|%s" .Release.Namespace .Release.Name .Chart.Version (toJson $settings) | sha256sum | trunc 8 -}}
{{- end -}}

{{- define "fedskd-sim.runName" -}}
{{ include "fedskd-sim.fullname" . }}-{{ include "fedskd-sim.run" . }}
{{- end -}}

{{- define "fedskd-sim.controllerName" -}}
{{ include "fedskd-sim.runName" . }}-control
{{- end -}}

{{- define "fedskd-sim.subdomain" -}}
{{ include "fedskd-sim.runName" . }}-ring
{{- end -}}

{{- define "fedskd-sim.secretName" -}}
{{ .Values.runSecret.existingSecret | default (printf "%s-run-key" (include "fedskd-sim.fullname" .)) }}
{{- end -}}

{{- define "fedskd-sim.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (printf "%s-controller" (include "fedskd-sim.fullname" .)) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "fedskd-sim.hospitalAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ include "fedskd-sim.fullname" . }}-hospital
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "fedskd-sim.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "fedskd-sim.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Says early, and in words, what cannot work. */}}
{{- define "fedskd-sim.check" -}}
{{- if not .Values.scenario -}}
{{- fail "no scenario: install with --set-file scenario=FILE, for example scenarios/quickstart.yaml" -}}
{{- end -}}
{{- if gt (len .Values.scenario) 262144 -}}
{{- fail (printf "the scenario has %d bytes, and hospitals read 262144 of one: shorten it" (len .Values.scenario)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name) -}}
{{- fail (printf "the release name %q: a Service is named after it, so use lower-case letters, digits and inner dashes, a letter first" .Release.Name) -}}
{{- end -}}
{{- if gt (len .Release.Name) 40 -}}
{{- fail (printf "the release name %q has %d characters; 40 leave room for the run and the hospital in a pod's name" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{- $scenario := fromYaml .Values.scenario -}}
{{- if hasKey $scenario "Error" -}}
{{- fail (printf "the scenario is not YAML: %s; try 'fedskd-sim validate FILE'" $scenario.Error) -}}
{{- end -}}
{{- $names := list -}}
{{- range $scenario.hospitals -}}
{{- if kindIs "bool" .name -}}
{{- fail "a hospital of the scenario is called yes, no, on or off, which Helm reads as true or false: write its name in quotes" -}}
{{- end -}}
{{- $name := toString .name -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" $name) -}}
{{- fail (printf "hospital name %q: use lower-case letters, digits and inner dashes, at most 40 of them; try 'fedskd-sim validate FILE'" $name) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- if lt (len $names) 2 -}}
{{- fail (printf "the scenario has %d hospitals, and a ring needs two; try 'fedskd-sim validate FILE'" (len $names)) -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail "two hospitals of the scenario have one name; try 'fedskd-sim validate FILE'" -}}
{{- end -}}
{{- range $name, $_ := .Values.hospitals.overrides -}}
{{- if not (has $name $names) -}}
{{- fail (printf "hospitals.overrides has %q, which is no hospital of the scenario; it has %s" $name (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
