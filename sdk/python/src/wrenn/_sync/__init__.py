"""The synchronous flavour, generated from `_async`: change it there."""
