"""The worker process: it reads netfilter queues, asks the engine, journals, and answers the kernel."""
