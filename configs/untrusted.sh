# Prints what a script can see in the sandbox of untrusted.toml.
echo "top of the file system: $(cd / && echo *)"
echo "users: $(cut -d : -f 1 /etc/passwd)"
echo "network interfaces: $(ls /sys/class/net)"
echo "capabilities: $(awk '/^CapEff/ { print $2 }' /proc/self/status)"
if (echo "#!/bin/sh" > /usr/bin/awk) 2>/dev/null; then echo "programs of the host: changed"; else echo "programs of the host: read-only"; fi
