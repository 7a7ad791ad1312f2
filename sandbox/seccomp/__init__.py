"""Filters of system calls: the built-in profile, JSON profiles of docker and podman, and the compiler for both.

    values      a filter as values: rules by name, comparisons of arguments, architectures
    calls       every system call by purpose, and why the built-in profile allows or refuses it
    builtin     the built-in profile, for a machine and the capabilities of a program
    profile     the JSON profiles that docker and podman use
    serving     the filter of the file system server
    compiler    compiles a filter to a program for the kernel with libseccomp; imported only for this

All modules except the compiler are pure. The cache of compiled programs is in runtime/filters.py, and kernel/seccomp.py
installs them.
"""
