"""Turn facts into checks: what was found, what it costs, and the command that repairs it. Pure.

needs          what a start needs: the requirements of the environment file, or the defaults without one
namespaces     ids, user namespaces and the mounts in them
control        cgroups, and the session that delegates them
storage        the state directory
run_directory  the run directory, and what dead sandboxes have left behind
programs       the kernel, the server's interpreter, filters, network helpers
"""
