"""Where other programs keep models on this machine.

Each module lists one store by names and sizes alone, so that hundreds of models take less than a second.

Modules:
    entry: One model in a store.
    hugging_face: The Hugging Face hub's cache.
    lm_studio: LM Studio's folder of models.
    ollama: Ollama's manifests and blobs.
    llama_cpp: llama.cpp's cache.
"""
