"""Connect private networks of sandboxes with other machines, and open only what an environment file names.

private_network   the network of one sandbox: its supervisor creates, watches and closes it
pasta             the command line of pasta(1), and its process
closed_host       no address of the host answers in the sandbox
ports             free ports of the host, and which process has a port that is in use
"""
