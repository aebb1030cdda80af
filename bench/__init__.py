"""Measurements: Scow beside whichever other engines are installed, interleaved, in one run on one machine."""
