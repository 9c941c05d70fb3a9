"""The data plane of asgi-supervise: what runs inside each worker process."""
