//! Round trips of every message, and that no bytes whatever make a parser panic.

use proptest::collection::vec;
use proptest::prelude::*;
use tidemark_model::ByteLen;

use super::*;
use bytes::BytesMut;

fn encoded(encode: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&mut out);
    out
}

#[test]
fn a_request_looks_as_the_specification_says() {
    let request = RequestHeader {
        flags: REQUEST_DF,
        command: Command::READ,
        cookie: Cookie(0x0102_0304_0506_0708),
        offset: 0x1000,
        length: 0x200,
    };
    let bytes = encoded(|out| request.encode(out));
    let expected = "2560951300040000010203040506070800000000000010000000 0200".replace(' ', "");
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, expected);
    assert_eq!(bytes.len(), REQUEST_LEN);
}

#[test]
fn greetings_are_told_apart() {
    assert_eq!(Greeting::parse(&Greeting::encode(HANDSHAKE_NO_ZEROES)), Ok(Greeting::Newstyle(3)));
    let old = [b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".as_slice(), &[0, 0]].concat();
    assert_eq!(Greeting::parse(&old), Ok(Greeting::Oldstyle));
    let http = b"HTTP/1.1 400 Bad R";
    assert!(matches!(Greeting::parse(http), Err(CodecError::Magic { .. })));
}

#[test]
fn impossible_block_sizes_are_refused() {
    let sizes = |minimum, preferred, maximum| {
        Info::parse(&Info::BlockSize(BlockSizes { minimum, preferred, maximum }).encode())
    };
    assert!(sizes(512, 4096, 32 << 20).is_ok());
    assert!(sizes(1, 1, u32::MAX).is_ok());
    for (minimum, preferred, maximum) in [
        (0, 4096, 4096),
        (3, 4096, 6),
        (512, 256, 4096),
        (512, 1000, 4096),
        (512, 512, 0),
        (512, 512, 700),
        (1 << 20, 1 << 20, 1 << 20),
    ] {
        assert!(sizes(minimum, preferred, maximum).is_err(), "{minimum} {preferred} {maximum}");
    }
}

#[test]
fn an_option_reply_of_impossible_length_is_refused_before_it_is_read() {
    let mut bytes = encode_option_reply(OptionCode::GO, ReplyType::INFO, &[]);
    bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(OptionReplyHeader::parse(&bytes), Err(CodecError::OutOfRange { .. })));
}

#[test]
fn too_many_context_queries_are_refused_before_they_are_read() {
    let mut bytes = MetaContextRequest { export: String::new(), queries: Vec::new() }.encode();
    bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(MetaContextRequest::parse(&bytes), Err(CodecError::OutOfRange { .. })));
}

#[test]
fn a_status_extent_of_no_bytes_is_refused() {
    let payload = encode_block_status(ContextId(1), &[WireExtent { length: 0, flags: 3 }]);
    assert!(parse_block_status(&payload).is_err());
    assert!(parse_block_status(&encode_block_status(ContextId(1), &[])).is_err());
}

#[test]
fn a_message_from_the_peer_cannot_forge_log_lines() {
    assert_eq!(printable(b" no\r\nERROR root\x1b[2J "), "no  ERROR root [2J");
    assert!(printable(&[b'x'; 100_000]).len() <= MAX_STRING);
}

prop_compose! {
    fn text()(text in "[^\0]{0,60}") -> String { text }
}

proptest! {
    #[test]
    fn handshake_messages_survive(option: u32, reply: u32, data in vec(any::<u8>(), 0..200), export in text(),
                                  queries in vec(text(), 0..6), wanted in vec(any::<u16>(), 0..6), id: u32) {
        let bytes = encode_option(OptionCode(option), &data);
        let header = OptionHeader::parse(&bytes).unwrap();
        prop_assert_eq!((header.option.0, header.length as usize), (option, data.len()));

        let bytes = encode_option_reply(OptionCode(option), ReplyType(reply), &data);
        let header = OptionReplyHeader::parse(&bytes[..OPTION_REPLY_HEADER_LEN]).unwrap();
        prop_assert_eq!((header.option.0, header.reply.0, header.length as usize), (option, reply, data.len()));

        let request = GoRequest { export: export.clone(), wanted: wanted.into_iter().map(InfoType).collect() };
        prop_assert_eq!(GoRequest::parse(&request.encode()).unwrap(), request);

        let request = MetaContextRequest { export: export.clone(), queries };
        prop_assert_eq!(MetaContextRequest::parse(&request.encode()).unwrap(), request);

        let context = parse_meta_context(&encode_meta_context(ContextId(id), &export)).unwrap();
        prop_assert_eq!(context, (ContextId(id), export.clone()));

        let listed = parse_listed_export(&encode_listed_export(&export)).unwrap();
        prop_assert_eq!(listed, (export, String::new()));
    }

    #[test]
    fn info_survives(size: u64, flags: u16, minimum in 0_u32..17, preferred in 0_u32..10, maximum in 1_u32..60) {
        let info = Info::Export { size: ByteLen(size), flags: TransmissionFlags(flags) };
        prop_assert_eq!(Info::parse(&info.encode()).unwrap(), info);
        let sizes = BlockSizes {
            minimum: 1 << minimum, preferred: 1 << (minimum + preferred), maximum: maximum << minimum,
        };
        prop_assert_eq!(Info::parse(&Info::BlockSize(sizes).encode()).unwrap(), Info::BlockSize(sizes));
    }

    #[test]
    fn transmission_messages_survive(flags: u16, command: u16, cookie: u64, offset: u64, length: u32,
                                     chunk: u16, done: bool, error in 1_u32.., message in "[a-z ]{0,50}",
                                     extents in vec((1_u32.., any::<u32>()), 1..50)) {
        let request = RequestHeader { flags, command: Command(command), cookie: Cookie(cookie), offset, length };
        prop_assert_eq!(RequestHeader::parse(&encoded(|out| request.encode(out))).unwrap(), request);

        for error in [None, Some(Errno(error))] {
            let reply = SimpleReply { error, cookie: Cookie(cookie) };
            let bytes = encoded(|out| reply.encode(out));
            prop_assert_eq!(ReplyStyle::parse(&bytes[..4]).unwrap(), ReplyStyle::Simple);
            prop_assert_eq!(SimpleReply::parse(&bytes[4..]).unwrap(), reply);
        }

        let header = ChunkHeader { done, chunk: ChunkType(chunk), cookie: Cookie(cookie), length };
        let bytes = encoded(|out| header.encode(out));
        prop_assert_eq!(ReplyStyle::parse(&bytes[..4]).unwrap(), ReplyStyle::Structured);
        prop_assert_eq!(ChunkHeader::parse(&bytes[4..]).unwrap(), header);

        let parsed = ErrorChunk::parse(ChunkType::ERROR, &ErrorChunk::encode(Errno(error), &message)).unwrap();
        let expected = ErrorChunk { error: Errno(error), message: message.trim().to_owned(), offset: None };
        prop_assert_eq!(parsed, expected);

        let extents: Vec<_> = extents.into_iter().map(|(length, flags)| WireExtent { length, flags }).collect();
        let payload = encode_block_status(ContextId(length), &extents);
        prop_assert_eq!(parse_block_status(&payload).unwrap(), (ContextId(length), extents));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300), chunk: u16) {
        let _ = Greeting::parse(&bytes);
        let _ = OptionHeader::parse(&bytes);
        let _ = OptionReplyHeader::parse(&bytes);
        let _ = GoRequest::parse(&bytes);
        let _ = MetaContextRequest::parse(&bytes);
        let _ = parse_meta_context(&bytes);
        let _ = parse_listed_export(&bytes);
        let _ = Info::parse(&bytes);
        let _ = RequestHeader::parse(&bytes);
        let _ = ReplyStyle::parse(&bytes);
        let _ = SimpleReply::parse(&bytes);
        let _ = ChunkHeader::parse(&bytes);
        let _ = ErrorChunk::parse(ChunkType(chunk), &bytes);
        let _ = ErrorChunk::parse(ChunkType::ERROR_OFFSET, &bytes);
        let _ = parse_block_status(&bytes);
        let _ = printable(&bytes);
    }
}
