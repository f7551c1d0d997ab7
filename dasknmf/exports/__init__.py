"""The factors of a run, written where other programs read them: AnnData, tables, xarray, GeoTIFF."""
