"""The worker process: reads netfilter queues, asks the engine, journals, answers the kernel."""
