"""Others are told what happens here, in docker's notification format."""
