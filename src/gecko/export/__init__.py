"""A trained model taken elsewhere: other formats, the proof that they answer alike, and a place to publish them."""
