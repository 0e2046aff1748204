"""FRet and human-labelled data in one format."""
