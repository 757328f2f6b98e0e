"""Interfaces of the kernel: iptables, netlink, conntrack, marks, system calls, privileges."""
