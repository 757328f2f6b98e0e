"""The supervisor process: starts and watches the others, keeps kernel rules, agents and sandboxes."""
