"""The suite `inference`: do intervals hold the truth as often as they say."""
