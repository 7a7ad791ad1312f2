"""Build the root file system inside the mount namespace by executing the operations of the plan in order."""
