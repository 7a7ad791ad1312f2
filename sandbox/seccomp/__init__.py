"""Which system calls a program may make: the built-in profile, profiles of the containers ecosystem, and compiling both.

    values      a filter as values: rules by name, comparisons of arguments, architectures
    calls       every system call by what it is for, and why the built-in profile allows it or not
    builtin     the built-in profile, for a machine and the capabilities of a program
    profile     JSON profiles of the containers ecosystem (docker, podman)
    compiler    from a filter to a program for the kernel, by libseccomp; imported only when one has to be compiled

All but the compiler is pure. Nothing here knows where the programs are kept (runtime/filters.py) and how they are
loaded (kernel/seccomp.py).
"""
