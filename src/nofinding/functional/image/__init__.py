"""Images filtered, compared and made alike."""
