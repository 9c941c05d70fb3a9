"""What goes in and out."""

# ruff: noqa: RUF012 – as the framework wants it

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from rest_framework_site.models import Book, Shelf


class BookSerializer(serializers.HyperlinkedModelSerializer):
    shelf = serializers.SlugRelatedField(slug_field="name", queryset=Shelf.objects.all())
    owner = serializers.ReadOnlyField(source="owner.username", default=None)

    class Meta:
        model = Book
        fields = ["url", "id", "title", "pages", "price", "shelf", "owner", "cover"]
        read_only_fields = ["cover"]

    def validate_title(self, title: str) -> str:
        if title != title.strip() or not title[0].isupper():
            raise serializers.ValidationError("A title begins with a capital letter.")
        return title

    def validate(self, words: dict[str, Any]) -> dict[str, Any]:
        if words.get("pages", 0) > 1000 and words.get("price", 0) < 10:
            raise serializers.ValidationError("So many pages cost more.", code="cheap")
        return words


class ShelfSerializer(serializers.ModelSerializer):
    """With its books, which can be made together with it."""

    class Content(serializers.ModelSerializer):
        class Meta:
            model = Book
            fields = ["title", "pages", "price"]

    books = Content(many=True)

    class Meta:
        model = Shelf
        fields = ["id", "name", "books"]

    def create(self, words: dict[str, Any]) -> Shelf:
        books = words.pop("books")
        shelf = Shelf.objects.create(**words)
        Book.objects.bulk_create(Book(shelf=shelf, **book) for book in books)
        return shelf


class EnquirySerializer(serializers.Serializer):
    email = serializers.EmailField()
    topics = serializers.ListField(child=serializers.ChoiceField(["price", "stock"]), min_length=1)
    wanted_on = serializers.DateField(required=False)
