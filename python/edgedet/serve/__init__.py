"""The HTTP server: ``edgedet serve``. Needs the extra ``serve``; nothing else of edgedet imports it.

Two processes. The front (`app`, `dispatch`) speaks HTTP and moves bytes: it looks into no image. The worker (`worker`)
holds the detectors and reads what clients sent, so that a decoder that crashes, or a driver that does, takes no
connection with it: the front starts another worker and sends it the requests that were under way. Bodies lie in memory
that both share (`arena`); messages (`wire`) say where.
"""
