"""Views of the project: view sets, generic views, function views."""

# ruff: noqa: RUF012 – as the framework wants it

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from rest_framework import generics, pagination, permissions, status, viewsets
from rest_framework.decorators import (
    action,
    api_view,
    parser_classes,
    permission_classes,
    throttle_classes,
)
from rest_framework.exceptions import APIException
from rest_framework.parsers import FileUploadParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from rest_framework_site.models import Book, Shelf
from rest_framework_site.serializers import BookSerializer, EnquirySerializer, ShelfSerializer


class OwnerOrReadOnly(permissions.BasePermission):
    def has_object_permission(self, request: Request, view: APIView, book: Book) -> bool:
        return request.method in permissions.SAFE_METHODS or book.owner == request.user


class BookViewSet(viewsets.ModelViewSet):
    """Books, to be read by all and changed by their owners."""

    queryset = Book.objects.select_related("shelf", "owner")
    serializer_class = BookSerializer
    permission_classes = [permissions.IsAuthenticatedOrReadOnly, OwnerOrReadOnly]
    search_fields = ["title"]
    ordering_fields = ["title", "pages"]

    def perform_create(self, serializer: BaseSerializer[Book]) -> None:
        serializer.save(owner=self.request.user)

    @action(detail=True, methods=["put"], parser_classes=[FileUploadParser])
    def cover(self, request: Request, pk: str) -> Response:
        """The body is the file, its name is in Content-Disposition."""
        book = self.get_object()
        with request.data["file"] as file:  # which is moved, so it is closed here
            book.cover.save(file.name, file)
        return Response({"name": file.name, "size": file.size, "cover": book.cover.name})

    @action(detail=False)
    def longest(self, request: Request) -> Response:
        book = get_object_or_404(self.get_queryset().order_by("-pages")[:1])
        return Response(self.get_serializer(book).data)


class ShelfViewSet(viewsets.ModelViewSet):
    queryset = Shelf.objects.prefetch_related("books").order_by("id")
    serializer_class = ShelfSerializer
    pagination_class = pagination.LimitOffsetPagination


class Newest(pagination.CursorPagination):
    ordering = "-id"
    page_size = 7


class BookFeed(generics.ListAPIView):
    queryset = Book.objects.select_related("shelf", "owner")
    serializer_class = BookSerializer
    pagination_class = Newest


class Enquiries(UserRateThrottle):
    scope = "enquiries"


@api_view(["POST"])
@permission_classes([permissions.AllowAny])
@throttle_classes([Enquiries])
def enquire(request: Request) -> Response:
    enquiry = EnquirySerializer(data=request.data)
    enquiry.is_valid(raise_exception=True)
    return Response(enquiry.validated_data, status=status.HTTP_202_ACCEPTED)


@api_view(["POST"])
@permission_classes([permissions.AllowAny])
@parser_classes([MultiPartParser])
def digest(request: Request) -> Response:
    answer: dict[str, Any] = {"title": request.data.get("title")}
    for name, file in request.FILES.items():
        sha = hashlib.sha256()
        for piece in file.chunks():
            sha.update(piece)
        answer[name] = {"name": file.name, "size": file.size, "sha256": sha.hexdigest()}
    return Response(answer)


@api_view(["GET"])
def who(request: Request) -> Response:
    method = type(request.successful_authenticator).__name__ if request.auth or request.user else ""
    return Response(
        {
            "pid": os.getpid(),
            "user": request.user.get_username() or None,
            "by": method if request.user.is_authenticated else None,
            "version": request.version,
        }
    )


@api_view(["GET"])
def export(request: Request) -> HttpResponseBase:
    def lines() -> Iterator[str]:
        for book in Book.objects.iterator(chunk_size=5):
            yield f"{book.id},{book.title}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")


class OutOfStock(APIException):
    status_code = 409
    default_detail = "None left."
    default_code = "out_of_stock"


@api_view(["GET"])
def order(request: Request) -> Response:
    raise OutOfStock


@api_view(["GET"])
def crash(request: Request) -> Response:
    raise ZeroDivisionError("crash in a view of the framework")
