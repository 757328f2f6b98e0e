"""Interfaces of the kernel: nftables, routing rules, netlink, conntrack, marks, system calls, privileges."""
