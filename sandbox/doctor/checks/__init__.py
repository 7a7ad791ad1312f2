"""From facts to checks, pure: what was found, what it costs, and the command that mends it.

needs         what a start depends on: with an environment file what that asks for, else the defaults
namespaces    ids, user namespaces and the mounts in them
control       cgroups, and the session that delegates them
storage       the state directory and what lies about
programs      the kernel, the server's interpreter, filters, helpers of the network
"""
