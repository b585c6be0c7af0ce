"""Every hospital its own pod: the controller's side in the cluster, and the launcher's side on
the user's machine.
"""
