"""The policy: rules and budgets as people write them, and the parts that evaluate them. No I/O, no clock."""
