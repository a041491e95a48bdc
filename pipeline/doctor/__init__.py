"""The report that a person reads after `ingest`: are cameras, clips and splits right?"""
