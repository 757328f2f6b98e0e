"""The supervisor process: it starts and watches the others, and keeps kernel rules, agents and sandboxes."""
