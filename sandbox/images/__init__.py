"""Read tar archives, unpack them into layers of the layer store, and examine layers for direct binds.

The modules that read and unpack archives are imported only when a layer has to be unpacked.
"""
