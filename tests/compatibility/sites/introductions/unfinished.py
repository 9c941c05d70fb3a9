"""What is named in place of the application."""

from fastapi import FastAPI

Class = FastAPI
instance = FastAPI()


def create_app():
    return FastAPI()


async def create_later():
    return FastAPI()


def create_with(settings):
    return FastAPI()


router = instance.router
text = "introductions.raw:app"
