"""The factor store: where W and H live between passes, so that no worker has to hold them."""
