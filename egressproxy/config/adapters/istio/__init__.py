"""Istio and Kubernetes objects, turned into the native form.

`documents` makes objects of files, and `fields` reads one mapping of an object, so that no field is overlooked. What an object
says is read by the module of its kind (`virtual_service`, `destination_rule`, `service_entry`, `gateway` with Sidecar,
`kubernetes`, `settings` of the mesh) into the values of `objects`. What they mean together is followed by `mesh` (who is
registered, and how reached) and `routes` (where it leads), and said in native words by `emit`. `istio` calls all of them: which
kind goes where is written there.
"""
