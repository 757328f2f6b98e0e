"""The effect of a policy: check a destination, simulate a policy on stored flows, learn the rules that flows need."""
