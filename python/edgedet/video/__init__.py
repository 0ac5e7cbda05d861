"""Detection in videos, cameras and streams: ``edgedet predict VIDEO``. See docs/video.md."""
