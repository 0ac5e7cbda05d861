"""What a detector is trained for: matching, and one small file per kind of loss; `criterion` puts them together."""
