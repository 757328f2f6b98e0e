"""The stored policy: rules and their edits, agents, approvals, tokens, gateways, and the audit chain."""
