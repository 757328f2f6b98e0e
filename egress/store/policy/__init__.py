"""The policy in the database: rules and their edits, agents, approvals, tokens, gateways, and the audit chain."""
