{{/* What overlay.py does for hospitals, for the controller's pod: strategic merge patches, with the same keys of lists.
     Tests lay the same patches over the same pods with both, and with kubectl. */}}

{{/* A patch laid over a map, as JSON; takes a dict of base, patch and keys. */}}
{{- define "fedskd-sim.patched" -}}
{{- $result := ternary (dict) (deepCopy .base) (hasKey .patch "$patch") -}}
{{- if ne (toString (get .patch "$patch")) "delete" -}}
{{- range $key, $value := omit .patch "$patch" -}}
{{- $there := get $result $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $result $key -}}
{{- else if kindIs "map" $value -}}
{{- if or (hasKey $result $key) (ne (toString (get $value "$patch")) "delete") -}}
{{- $base := ternary $there (dict) (kindIs "map" $there) -}}
{{- $_ := set $result $key (include "fedskd-sim.patched" (dict "base" $base "patch" $value "keys" $.keys) | fromJson) -}}
{{- end -}}
{{- else if and (kindIs "slice" $value) (hasKey $.keys $key) -}}
{{- $entries := dict "base" $there "patch" $value "key" (index $.keys $key) "keys" $.keys -}}
{{- $_ := set $result $key (include "fedskd-sim.patchedList" $entries | fromJsonArray) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/* A list whose entries are merged by a key; takes a dict of base, patch, key and keys. */}}
{{- define "fedskd-sim.patchedList" -}}
{{- $new := list -}}
{{- $gone := list -}}
{{- $merge := kindIs "slice" .base -}}
{{- range .patch -}}
{{- if not (hasKey . "$patch") -}}
{{- $new = append $new . -}}
{{- else if eq (toString (index . "$patch")) "replace" -}}
{{- $merge = false -}}
{{- else -}}
{{- $gone = append $gone (toString (get . $.key)) -}}
{{- end -}}
{{- end -}}
{{- $merged := list -}}
{{- $before := list -}}
{{- if $merge -}}
{{- range .base -}}
{{- if not (and $.key (has (toString (get . $.key)) $gone)) -}}
{{- $before = append $before (toString (get . $.key)) -}}
{{- $merged = append $merged . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $patch := $new -}}
{{- $found := not (and $merge $.key) -}}
{{- $next := list -}}
{{- range $entry := $merged -}}
{{- if and (not $found) (eq (toString (get $entry $.key)) (toString (get $patch $.key))) -}}
{{- $found = true -}}
{{- $entry = include "fedskd-sim.patched" (dict "base" $entry "patch" $patch "keys" $.keys) | fromJson -}}
{{- end -}}
{{- $next = append $next $entry -}}
{{- end -}}
{{- if or (not $found) (not (and $merge $.key)) -}}
{{- $next = append $next (include "fedskd-sim.patched" (dict "base" (dict) "patch" $patch "keys" $.keys) | fromJson) -}}
{{- end -}}
{{- $merged = $next -}}
{{- end -}}
{{- if and $merge .key -}}
{{- $merged = include "fedskd-sim.ordered" (dict "merged" $merged "before" $before "new" $new "key" .key) | fromJsonArray -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{/* Merged entries in kubectl's order: those of the patch in the patch's, what is only there before the first that follows it
     there; takes a dict of merged, before (the keys that were there), new and key. */}}
{{- define "fedskd-sim.ordered" -}}
{{- $wanted := list -}}
{{- range .new -}}
{{- $wanted = append $wanted (toString (get . $.key)) -}}
{{- end -}}
{{- $limits := dict -}}
{{- $others := list -}}
{{- range $place, $name := uniq .before -}}
{{- $_ := set $limits $name $place -}}
{{- if not (has $name $wanted) -}}
{{- $others = append $others $name -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range $name := uniq $wanted -}}
{{- range $other := $others -}}
{{- if and (not (has $other $names)) (lt (index $limits $other) (get $limits $name | default 0)) -}}
{{- $names = append $names $other -}}
{{- end -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- $result := list -}}
{{- range $name := uniq (concat $names $others) -}}
{{- range $.merged -}}
{{- if eq (toString (get . $.key)) $name -}}
{{- $result = append $result . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/* Refuses what no patch may have; takes a dict of patch, place, name (the last key of the place) and keys. */}}
{{- define "fedskd-sim.checkPatch" -}}
{{- if kindIs "map" .patch -}}
{{- range $key, $value := .patch -}}
{{- $place := printf "%s.%s" $.place $key -}}
{{- if and (eq $key "$patch") (not (has $value (list "replace" "delete"))) -}}
{{- fail (printf "%s is %q, and may be replace or delete" $place (toString $value)) -}}
{{- else if and (hasPrefix "$" $key) (ne $key "$patch") -}}
{{- fail (printf "%s is no directive: there is only $patch" $place) -}}
{{- end -}}
{{- include "fedskd-sim.checkPatch" (dict "patch" $value "place" $place "name" $key "keys" $.keys) -}}
{{- end -}}
{{- else if kindIs "slice" .patch -}}
{{- range $number, $entry := .patch -}}
{{- $place := printf "%s.%d" $.place $number -}}
{{- $marked := and (kindIs "map" $entry) (hasKey $entry "$patch") -}}
{{- if not (hasKey $.keys $.name) -}}
{{- if $marked -}}
{{- fail (printf "%s stands in a list that is replaced as a whole, without $patch" $place) -}}
{{- end -}}
{{- else if not (kindIs "map" $entry) -}}
{{- fail (printf "%s is no mapping" $place) -}}
{{- else if and $marked (eq (toString (index $entry "$patch")) "replace") -}}
{{- if gt (len $entry) 1 -}}
{{- fail (printf "%s replaces the whole list, and may have no other key than $patch" $place) -}}
{{- end -}}
{{- else if not (or (empty (index $.keys $.name)) (hasKey $entry (index $.keys $.name))) -}}
{{- fail (printf "%s has no %q, by which it is found" $place (index $.keys $.name)) -}}
{{- else if and $marked (empty (index $.keys $.name)) -}}
{{- fail (printf "%s cannot be deleted: such entries have no key; $patch: replace replaces them" $place) -}}
{{- end -}}
{{- include "fedskd-sim.checkPatch" (dict "patch" $entry "place" $place "name" "" "keys" $.keys) -}}
{{- end -}}
{{- end -}}
{{- end -}}
