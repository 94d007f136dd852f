"""A hospital's test-time node as a service: batches of images come over HTTP, predictions and reasons go
back.

``serve`` starts it, ``app`` has its paths. It knows no experiment: what it serves is a ``Served``. FastAPI,
because the types of the answers are then the service's OpenAPI description; Flower brings it anyway.
"""
