"""egress: an inline network egress firewall and tunnel detector for sandboxes that run autonomous agents."""

__version__ = "0.1.0"
