"""The effect of a policy: check a destination, simulate it on stored flows, learn the rules that flows need."""
