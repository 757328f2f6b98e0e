"""The kernel's interfaces: iptables, netlink, conntrack, marks, system calls, privileges."""
