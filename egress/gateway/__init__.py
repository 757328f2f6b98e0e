"""The kernel's side, thin: netfilter queues and their workers, kernel rules, sandboxes, the supervisor."""
