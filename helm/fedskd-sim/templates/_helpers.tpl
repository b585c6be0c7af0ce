{{/* The release's name, short enough for suffixes. */}}
{{- define "fedskd-sim.fullname" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "fedskd-sim.selectorLabels" -}}
app.kubernetes.io/name: fedskd-sim
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of an object; takes the root. */}}
{{- define "fedskd-sim.labels" -}}
{{- include "fedskd-sim.labelsWith" (dict "root" . "more" dict "own" dict) -}}
{{- end -}}

{{/* Labels of an object: its own settings win over what all have in common, and the labels by which it is known over both;
     takes a dict of root, more (its settings) and own (more by which it is known). */}}
{{- define "fedskd-sim.labelsWith" -}}
{{- with .root -}}
{{- $known := include "fedskd-sim.selectorLabels" . | fromYaml -}}
{{- $_ := set $known "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $known "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $known "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- include "fedskd-sim.layered" (list .Values.commonLabels $.more $known $.own) -}}
{{- end -}}
{{- end -}}

{{/* Labels of the controller's pod, or of the self test's; takes a dict of root and own. */}}
{{- define "fedskd-sim.podLabels" -}}
{{- $known := include "fedskd-sim.selectorLabels" .root | fromYaml -}}
{{- include "fedskd-sim.layered" (list .root.Values.commonLabels .root.Values.controller.podLabels $known .own) -}}
{{- end -}}

{{/* One map of a list of maps, as YAML; the last that has a key wins. */}}
{{- define "fedskd-sim.layered" -}}
{{- $result := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* What is null in the values is as by default: files/defaults.json has the defaults by place, made from values.yaml. Every
     template begins with this. */}}
{{- define "fedskd-sim.defaults" -}}
{{- range $name, $default := .Files.Get "files/defaults.json" | fromJson -}}
{{- $part := $.Values -}}
{{- $place := splitList "." $name -}}
{{- range initial $place -}}
{{- if kindIs "invalid" (index $part .) -}}
{{- $_ := set $part . dict -}}
{{- end -}}
{{- $part = index $part . -}}
{{- end -}}
{{- if kindIs "invalid" (index $part (last $place)) -}}
{{- $_ := set $part (last $place) $default -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* repository:tag or repository@digest of an image; takes a dict of root and image. */}}
{{- define "fedskd-sim.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Eight digits that name the run: another scenario or other settings are another run, unless it goes on with an earlier one. */}}
{{- define "fedskd-sim.run" -}}
{{- $protection := omit .Values.protection "disruptionBudget" -}}
{{- $settings := set (omit .Values "metrics" "networkPolicy" "extraObjects" "rbac" "resume") "protection" $protection -}}
{{- $own := printf "%s|%s|%s|%s" .Release.Namespace .Release.Name .Chart.Version (toJson $settings) | sha256sum | trunc 8 -}}
{{- .Values.resume.run | default $own -}}
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
{{- with .Values.runAsUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "fedskd-sim.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The spec of the controller's pod, and of the self test's; takes a dict of root and test. */}}
{{- define "fedskd-sim.controllerPod" -}}
{{- $base := include "fedskd-sim.controllerBase" . | fromYaml -}}
{{- $keys := .root.Files.Get "files/merge-keys.json" | fromJson -}}
{{- $patch := .root.Values.controller.pod -}}
{{- include "fedskd-sim.checkPatch" (dict "patch" $patch "place" "controller.pod" "name" "" "keys" $keys) -}}
{{- include "fedskd-sim.patched" (dict "base" $base "patch" $patch "keys" $keys) | fromJson | toYaml -}}
{{- end -}}

{{- define "fedskd-sim.controllerBase" -}}
{{- with .root -}}
{{- if not $.test }}
hostname: controller
subdomain: {{ include "fedskd-sim.subdomain" . }}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
dnsConfig: {options: [{name: ndots, value: "2"}]}
{{- end }}
restartPolicy: Never
enableServiceLinks: false
serviceAccountName: {{ include "fedskd-sim.serviceAccountName" . }}
automountServiceAccountToken: true
securityContext:
  {{- include "fedskd-sim.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: controller
    image: {{ include "fedskd-sim.image" (dict "root" . "image" .Values.images.controller) }}
    imagePullPolicy: {{ .Values.images.controller.pullPolicy }}
    terminationMessagePolicy: FallbackToLogsOnError
    args: [conduct, /etc/fedskd/run, {{ ternary "--check" "--secret, /etc/fedskd/key/run-key" $.test }}]
    env:
      - {name: HOME, value: /tmp}
    {{- if not $.test }}
    ports:
      - {name: ring, containerPort: 5555}
    {{- end }}
    resources:
      {{- toYaml .Values.controller.resources | nindent 6 }}
    securityContext:
      {{- include "fedskd-sim.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: run, mountPath: /etc/fedskd/run, readOnly: true}
      {{- if not $.test }}
      - {name: key, mountPath: /etc/fedskd/key, readOnly: true}
      {{- end }}
      - {name: temporary, mountPath: /tmp}
volumes:
  - name: run
    configMap: {name: {{ include "fedskd-sim.runName" . }}}
  {{- if not $.test }}
  - name: key
    secret: {secretName: {{ include "fedskd-sim.secretName" . }}, defaultMode: 0440}
  {{- end }}
  - name: temporary
    emptyDir: {sizeLimit: 128Mi}
{{- end }}
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
{{- if and .Release.IsUpgrade .Values.removeAfterSeconds -}}
{{- fail "a release that removes itself (removeAfterSeconds) is not upgraded: what it shares with the next run would go with the last one; install another" -}}
{{- end -}}
{{- if .Values.maxRestarts -}}
{{- range $name, $settings := merge (dict "hospitals.defaults" .Values.hospitals.defaults) .Values.hospitals.overrides -}}
{{- if dig "custody" "claim" "" (default dict $settings) -}}
{{- fail (printf "maxRestarts is for rings without claims, and %s keeps what a hospital goes on from on one: leave one of the two out" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.commonLabels "kueue.x-k8s.io/queue-name" -}}
{{- fail "commonLabels would put every Job, and the controller, into the queue by itself: name the queue in kueue.queue" -}}
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
{{- include "fedskd-sim.checkPatches" . -}}
{{- end -}}

{{/* What goes with the controller's Job where the release removes itself: a JSON list of kinds and names. */}}
{{- define "fedskd-sim.made" -}}
{{- $made := list -}}
{{- if .Values.removeAfterSeconds -}}
{{- $full := include "fedskd-sim.fullname" . -}}
{{- $run := include "fedskd-sim.runName" . -}}
{{- $made = list (list "ConfigMap" $run) (list "Service" (include "fedskd-sim.subdomain" .)) -}}
{{- $made = append $made (list "Secret" (printf "sh.helm.release.v1.%s.v%d" .Release.Name (int .Release.Revision))) -}}
{{- if not .Values.runSecret.existingSecret -}}
{{- $made = append $made (list "Secret" (include "fedskd-sim.secretName" .)) -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- $made = append $made (list "NetworkPolicy" $run) -}}
{{- $made = append $made (list "NetworkPolicy" (include "fedskd-sim.controllerName" .)) -}}
{{- if .Values.networkPolicy.hospitalEgress -}}
{{- $made = append $made (list "NetworkPolicy" (printf "%s-data" $run)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.protection.disruptionBudget -}}
{{- $made = append $made (list "PodDisruptionBudget" $run) -}}
{{- end -}}
{{- if .Values.serviceAccount.create -}}
{{- $made = append $made (list "ServiceAccount" (include "fedskd-sim.serviceAccountName" .)) -}}
{{- $made = append $made (list "ServiceAccount" (include "fedskd-sim.hospitalAccountName" .)) -}}
{{- end -}}
{{- if .Values.rbac.create -}}
{{- $made = append $made (list "Role" (printf "%s-controller" $full)) -}}
{{- $made = append $made (list "RoleBinding" (printf "%s-controller" $full)) -}}
{{- end -}}
{{- end -}}
{{- toJson $made -}}
{{- end -}}

{{/* Refuses mistaken patches of hospitals' pods. */}}
{{- define "fedskd-sim.checkPatches" -}}
{{- $keys := .Files.Get "files/merge-keys.json" | fromJson -}}
{{- $members := dict "hospitals.defaults" .Values.hospitals.defaults -}}
{{- range $name, $settings := .Values.hospitals.overrides -}}
{{- $_ := set $members (printf "hospitals.overrides.%s" $name) $settings -}}
{{- end -}}
{{- range $place, $settings := $members -}}
{{- with $settings -}}
{{- include "fedskd-sim.checkPatch" (dict "patch" .pod "place" (printf "%s.pod" $place) "name" "" "keys" $keys) -}}
{{- with .gpu -}}
{{- include "fedskd-sim.checkPatch" (dict "patch" .pod "place" (printf "%s.gpu.pod" $place) "name" "" "keys" $keys) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
