"""Where models are on this machine: in the folders of other programs, and converted ones in the home.

Each store's module lists it by names and sizes alone, so that hundreds of models take less than a second.

Modules:
    entry: One model in a store.
    hugging_face: The Hugging Face hub's cache.
    lm_studio: LM Studio's folder of models.
    ollama: Ollama's manifests and blobs.
    llama_cpp: llama.cpp's cache.
    converted: GGUF files that were converted, in the home.
    model_source: What a converted model was made from.
"""
