"""The root file system inside the mount namespace: the operations of a plan, executed one after the other."""
